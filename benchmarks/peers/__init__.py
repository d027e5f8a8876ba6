"""Other systems at the same work: plain Flower, Apple's pfl, FlowerTune's pattern and a loop over peft."""
