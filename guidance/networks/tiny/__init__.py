"""The pack's own small networks: a denoiser, a guide, their preconditioning and their files.

From outside: all of it.
"""
