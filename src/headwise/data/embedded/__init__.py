"""The samples that ship inside other packages: words and digits on photographs, touching coins."""
