"""One network in two states: a LoRA switched beside its layers, so that a MODEL and its guide share memory.

From outside: `sharing` and the `AdapterSwitch` of `adapter_switch`.
"""
