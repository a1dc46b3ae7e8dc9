"""HTTP bodies, a file for each route. An unknown field is an error: a misspelt option is not ignored."""
