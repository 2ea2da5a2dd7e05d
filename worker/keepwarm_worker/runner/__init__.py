"""The program that runs user code inside a user's environment.

Rules of every module in this folder: standard library only, Python 3.8 syntax and library, and as few imports as will
do, because each one delays every cold start. Nothing here imports another package of ours: the agent copies these
files to a directory of their own (`keepwarm_worker.runner_files`) and starts `main.py` with the user's interpreter.
`frames` is also imported by the agent, so that both ends share one definition of the protocol.
"""
