"""Documents from records: tables and figures; never imports torch."""
