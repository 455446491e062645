"""Text front ends: from a sentence to the ids that a network takes."""
