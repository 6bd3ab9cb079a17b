import asyncio, heapq, itertools, contextvars
from asyncio import events
from collections import deque
class Evicted(BaseException): pass
class _T(asyncio.Task):
    def __init__(self,*a,n=0,**k):
        self._n=n; super().__init__(*a,**k)
    def __hash__(self): return self._n
    __eq__=object.__eq__
class H:
    __slots__=("cb","args","ctx","_cancelled","_when","name","_scheduled")
    def __init__(s,cb,args,ctx,when=0.0,name=None):
        s.cb=cb;s.args=args;s.ctx=ctx or contextvars.copy_context();s._cancelled=False;s._when=when;s.name=name
    def cancel(s): s._cancelled=True
    def cancelled(s): return s._cancelled
    def when(s): return s._when
class WorkflowLoop(asyncio.AbstractEventLoop):
    def __init__(self,*,now,owner=None):
        self._t=now;self.owner=owner;self._r=deque();self._h=[];self._c=itertools.count(1);self._tasks={};self.evicting=False;self.violation=None;self.on_violation=None;self._run=False
    def get_debug(self): return False
    def time(self): return self._t
    def set_time(self,n): self._t=max(self._t,n)
    def call_soon(self,cb,*a,context=None):
        h=H(cb,a,context);self._r.append(h);return h
    def call_later(self,d,cb,*a,context=None): return self.call_at(self._t+d,cb,*a,context=context)
    def call_at(self,when,cb,*a,context=None): return self.call_at_named(when,None,cb,*a,context=context)
    def call_at_named(self,when,name,cb,*a,context=None):
        h=H(cb,a,context,when,name)
        if when<=self._t: self._r.append(h)
        else: heapq.heappush(self._h,(when,next(self._c),h))
        return h
    def next_due(self):
        while self._h and self._h[0][2]._cancelled: heapq.heappop(self._h)
        return self._h[0][0] if self._h else None
    def due_name(self):
        return self._h[0][2].name if self.next_due() is not None else None
    def fire(self,due,now):
        self._t=max(self._t,now,due)
        while self._h and self._h[0][0]<=due:
            self._r.append(heapq.heappop(self._h)[2])
    def create_future(self): return asyncio.Future(loop=self)
    def create_task(self,coro,*,name=None,context=None,**k):
        n=next(self._c); t=_T(coro,loop=self,name=name or f"Task-{n}",context=context,n=n) if context else _T(coro,loop=self,name=name,n=n)
        self._tasks[n]=t; t.add_done_callback(lambda t: self._tasks.pop(n,None)); return t
    def tasks(self): return [t for t in self._tasks.values() if not t.done()]
    def is_running(self): return self._run
    def is_closed(self): return False
    def call_exception_handler(self,c): pass
    def drain(self):
        host=events._get_running_loop(); events._set_running_loop(self); self._run=True
        try:
            r=self._r
            while r:
                h=r.popleft()
                if not h._cancelled: h.ctx.run(h.cb,*h.args)
        finally: self._run=False; events._set_running_loop(host)
    def evict(self,sig):
        self.evicting=True; self._r.clear(); self._h.clear()
