// The theme would load every icon of Font Awesome here, 1.5 MB; its style sheet has them as a font.
