"""What each chapter says of its runs: sentences, captions and tables, all computed."""
