"""Is the load generator ever the limit?"""
