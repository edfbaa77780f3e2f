"""One model over several processes: tensor and pipeline parallel, and the groups of their ranks.

Why it exists: a model may be larger than one device, and layers, loaders and the scheduler must all
agree on who holds what. `context` and `splits` say it, `collectives` is the only place that sends,
`layers` computes with parts, `slices` reads them from files, `ranks` and `group` run the processes.
Nothing here names a device's library: one function of `ranks` chooses it. Imports torch.
"""
