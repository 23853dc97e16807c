"""Stages that run as jobs of a cloud service.

::

    begin_stage ─ record (written first) ─ submit ─▶ job ─ poll, messages ─▶ finish_stage ─ collect
                    │                                                           │
                    └── found again after a crash              └── manifest last

`job` defines the interfaces of a service and of a stage's work, `store` keeps the job records, and
`follow` waits in this process; Airflow waits in its triggerer instead. `dataflow` and `vertex` are
the services, each with a meter that reads the usage of its jobs; `cost_watch` polls all jobs of a
run.
"""
