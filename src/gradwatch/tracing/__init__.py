"""What a running step tells: the operations it runs, the module and the line of the user's code that runs them."""
