"""Page tables wherever they lie: walked as Linux and as the hardware sees them, built, filled and cleared."""
