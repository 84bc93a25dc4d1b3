"""Run folders in, the page a person looks at out."""
