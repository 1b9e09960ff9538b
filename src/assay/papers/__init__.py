"""Papers as executable claims: one module a paper, made of the parts of the house; no mechanism lives here."""
