"""Stages whose work a job of a cloud service does.

::

    begin_stage ─ order (written first) ─ submit ─▶ job ─ look, messages ─▶ finish_stage ─ collect
                        │                                                        │
                        └── found again after a crash           └── manifest last

`jobs` says what a service and a stage's work must offer, `orders` keeps what was asked for,
`wait` waits in this process. Airflow waits in its triggerer instead.
"""
