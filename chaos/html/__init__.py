"""What do people look at after a run? Pages: `report.py` for a whole run, `story.py` for one failure, `github.py` for a CI job.

1. A page is one file: style and script are inside, nothing is loaded from anywhere, and the policy in its head forbids it.
2. What a run or a plan says is text, and goes through `escape` before it becomes markup.
3. Light and dark follow the reader's setting; the narrowest screen meant is 360 pixels wide. No meaning is carried by colour alone.
4. A chart is an SVG without text, stretched to the width there is; its words stand beside it as HTML, so they stay readable.
"""
