"""HTTP bodies, a file for each of service/routes. Unknown fields are refused: a misspelt option must not be
ignored in silence."""
