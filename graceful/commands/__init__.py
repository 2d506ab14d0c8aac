"""The commands of `graceful`, in one module for each kind."""
