"""Programs that run with vLLM's Python, in its process; they import nothing of vllama.

A folder of their own because a script's folder comes first on the path: beside them must
lie nothing that is called `vllm`.
"""
