"""What a completed run gives away: membership, and what one client sends."""
