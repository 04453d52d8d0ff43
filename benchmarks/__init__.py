"""How fast is the service, beside others that answer the same requests with the same model?"""
