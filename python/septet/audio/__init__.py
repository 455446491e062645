"""Sound: mel spectrograms and WAV files."""
