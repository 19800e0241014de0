"""The row map in Triton, for GPUs of NVIDIA and AMD. Importing this needs neither Triton nor torch; `launch` needs both.

apply.py, reduce.py and vjp.py hold one kernel each, rows.py what they share, launch.py their launches.
"""
