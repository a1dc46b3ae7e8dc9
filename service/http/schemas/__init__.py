"""HTTP bodies, a file for each of service/http/routes. Unknown fields are refused: a misspelt option is an
error."""
