"""Reports: of each exchange that was taken down, has failed or was slow, what a person needs to find out why."""
