"""What a run left behind, read and shown: files in, pictures and text out, on any machine and without torch."""
