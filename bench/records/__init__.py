"""What was measured, as pure data: records, their statistics, where and when. Free of torch."""
