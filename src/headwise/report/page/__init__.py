"""What a page is made of: HTML that is escaped by construction, blocks, and the document that needs no network."""
