"""Does a personalised model still know what the backbone knew? The paper's Tables 17 and 18, by lm-eval."""
