"""How measurements are shown: tables, pictures, captions, the papers' numbers, the page. Each measurement has a file of the
same name as in evaluation/, with its REPORT (base.py)."""
