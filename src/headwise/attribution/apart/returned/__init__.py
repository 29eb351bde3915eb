"""What training code returned: its entries, their total, and which of them are losses."""
