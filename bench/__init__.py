"""What Holdfast costs, measured beside what a plain SQLite commit costs on the same disk: `make bench`.

Rules
1. Everything that is compared is measured in one run, in turns: a busy minute hits both sides.
2. Each measurement is a process of its own that does nothing else, and that was warmed up before its clock started.
3. A figure is a median with the least and the greatest beside it. A bar that is missed is printed as missed.
4. What is counted (flushes, bytes) is exact; what is timed is never asserted by a test.
"""
