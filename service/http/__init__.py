"""Everything that knows HTTP: the application, its routes and bodies, keys, error answers, the page."""
