"""`bench/shift`: what each variant of the update does to accuracy and spread when real policies shift."""
