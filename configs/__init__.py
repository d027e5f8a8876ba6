"""What a run is: the typed config, how it is loaded, and the values everything else derives from it."""
