"""The paper's claims and what decides them."""
