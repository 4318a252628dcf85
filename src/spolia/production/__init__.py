"""Productions: new tracks made from samples of recordings, with their exact ground truth."""
