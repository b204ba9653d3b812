"""What several test suites share. Not a test suite itself."""
