"""The background process that trains: preferences and logged samples in, a judged new version out."""
