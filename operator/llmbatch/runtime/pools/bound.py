"""Taking back the tasks of a replica that lost its node.

Ray runs such a task again on the very same actor, once that one has found resources and has loaded its model anew: its
rows would wait for minutes beside replicas that have nothing to do. Here the task is cancelled, and its input stands in
the stage's queue again, for whoever is free. A task whose rows are all out has only lost the end of its stream; it is
done.
"""

from __future__ import annotations

from typing import Any

KEPT_BY_DRIVER_BYTES = 50_000
"""Ray keeps results below 100 kB with their owner. A larger one was lost with its node: its task is not cancelled, for
Ray must be free to run it again."""


class BoundTasks:
    """The tasks of one stage's operator, by the replica that has them.

    It knows replicas by their ids: an actor that somebody holds a handle of lives on, and its GPU with it.
    """

    def __init__(self, operator: Any, pool: Any) -> None:
        """Note who gets which task. Before the first one."""
        self._operator = operator
        self._pool = pool
        self._holders: dict[int, str] = {}
        self._dispatched_to = ""
        self._note_dispatches()

    def take_back(self, actor: Any) -> None:
        """Rid an actor of its tasks, but for those that have put out a part of their rows."""
        import ray

        holder = self._pool._get_actor_logical_id(actor)
        for index in [index for index, other in self._holders.items() if other == holder]:
            task = self._operator._data_tasks.get(index)
            if task is None or task.is_drained() or task.has_pending_emits() or not task.pending_block_ref.is_nil():
                continue
            running = self._operator.metrics._running_tasks[index]
            if not running.num_outputs:
                ray.cancel(task.get_waitable(), recursive=False)
                self._requeue(index)
                self._pool.on_task_completed(actor)
            elif running.num_rows_produced == running.inputs.num_rows():
                if running.bytes_output <= KEPT_BY_DRIVER_BYTES:
                    ray.cancel(task.get_waitable(), recursive=False)
                task.mark_done()

    def dispatch(self) -> None:
        """Give what was put back to replicas that are free; without new input Ray Data does not look at it."""
        if self._operator._bundle_queue.has_next():
            self._operator._try_schedule_tasks_internal()

    def _requeue(self, index: int) -> None:
        """Put a task's input back, and leave the books as if it had never been submitted."""
        operator, metrics = self._operator, self._operator.metrics
        del operator._data_tasks[index]
        operator._output_queue.finalize(key=index)
        inputs = metrics._running_tasks.pop(index).inputs
        metrics._pending_task_inputs.remove(inputs)
        metrics.num_tasks_submitted -= 1
        metrics.num_tasks_running -= 1
        metrics.bytes_inputs_of_submitted_tasks -= inputs.size_bytes()
        metrics.rows_inputs_of_submitted_tasks -= inputs.num_rows() or 0
        operator._bundle_queue.add(inputs)
        metrics.on_input_queued(inputs, input_index=0)

    def _note_dispatches(self) -> None:
        operator, pool = self._operator, self._pool
        on_submitted, submit = pool.on_task_submitted, operator._submit_data_task

        def submitted(actor: Any) -> None:
            self._dispatched_to = pool._get_actor_logical_id(actor)
            on_submitted(actor)

        def submit_and_note(gen: Any, inputs: Any, task_done_callback: Any = None) -> None:
            index = operator._next_data_task_idx
            self._holders = {old: who for old, who in self._holders.items() if old in operator._data_tasks}
            self._holders[index] = self._dispatched_to
            submit(gen, inputs, task_done_callback)

        pool.on_task_submitted, operator._submit_data_task = submitted, submit_and_note
