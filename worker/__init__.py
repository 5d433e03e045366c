"""Computing on one device."""
