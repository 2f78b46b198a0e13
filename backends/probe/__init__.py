"""Conformance checks: what one model on one backend really does, measured through the same link that serves its calls.

`checks.every()` lists them, `run.survey` runs them, `found` makes of their outcomes what a configuration may say (`facts`,
`unsupported`). A check asks a few small questions and judges the answers; none needs a clever model, so that a toy and a frontier
model are measured alike.
"""
