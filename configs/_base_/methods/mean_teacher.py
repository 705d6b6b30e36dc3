model = dict(type='MeanTeacher', threshold=0.95)
default_hooks = dict(teacher=dict(type='EMATeacherHook', momentum=0.996))
