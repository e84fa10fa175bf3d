"""CPUs: translation, TLB and data cache."""
