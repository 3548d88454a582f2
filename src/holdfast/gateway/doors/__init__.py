"""How an agent reaches the gateway: protocol in, calls out.

Rules
1. A door decides nothing. It finds out whose right is shown, makes a call of what it reads, and tells what came of it.
2. What it cannot read exactly it refuses.
"""
