"""Long answers that hold no thread: files, upstream URLs, and requests that wait for news."""
