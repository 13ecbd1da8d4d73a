"""How measurements are shown: tables, figures, captions, the papers' numbers, the page."""
