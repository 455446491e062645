"""Waveforms and what stands for them: WAV files and mel spectrograms."""

from septet.audio.mel import MelConfig, log_mel_spectrogram, mel_filter_bank
from septet.audio.wav import read_wav, write_wav

__all__ = ["MelConfig", "log_mel_spectrogram", "mel_filter_bank", "read_wav", "write_wav"]
