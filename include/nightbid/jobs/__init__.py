"""Stages whose work a job of a cloud service does.

::

    begin_stage ─ record (written first) ─ submit ─▶ job ─ look, messages ─▶ finish_stage ─ collect
                    │                                                           │
                    └── found again after a crash              └── manifest last

`job` says what a service and a stage's work must offer, `store` keeps what was asked for, `follow`
waits in this process; Airflow waits in its triggerer instead. `dataflow` and `vertex` are the
services, each with a meter that reads what its jobs cost; `cost_watch` looks at all jobs of a run.
"""
