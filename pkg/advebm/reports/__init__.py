"""How measurements are shown: tables, pictures, captions, the papers' numbers, the page. A measurement's file has the
name of that in evaluation/ and holds its REPORT (base.py)."""
