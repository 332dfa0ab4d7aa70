"""What operators are made of: candidates and their choice, the contract's checks, layouts, the native extension."""
